"""Each module of this package writes the answers of one interface, whole and as stream events."""
