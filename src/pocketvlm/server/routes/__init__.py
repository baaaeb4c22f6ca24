"""Each module of this package has the routes of one interface."""
