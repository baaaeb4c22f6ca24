"""Requests and answers of the HTTP interfaces, without a web framework: bodies in, bodies or stream events out."""
