"""Each module of this package has typed requests of one interface and turns them into a `Question`."""
