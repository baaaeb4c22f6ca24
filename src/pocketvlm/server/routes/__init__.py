"""The routes of each interface: a request in, an answer in that interface's form out."""
