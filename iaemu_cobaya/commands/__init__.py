"""The command line: the program ``iaemu``, and the commands that read chains and measurements."""
