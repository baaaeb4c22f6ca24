"""The requests of each interface: fields with their types, and how they become a Question."""
