"""Tools that turn halo catalogues into models for ``iaemu``: tables, mocks, training sets, networks."""
