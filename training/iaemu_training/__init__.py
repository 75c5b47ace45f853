"""From a halo catalogue to what ``iaemu`` loads: tables, mocks, training sets and networks (extra ``training``)."""
