"""The entry points ``iaemu`` and ``iaemu-train``: one command a file."""
