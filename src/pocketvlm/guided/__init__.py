"""Guided output restricts each token to what a grammar allows; it needs llguidance (extra `serve`).

`Grammars` makes them for one tokenizer out of JSON schemas, regular expressions, choices and tools; `Grammar` is
compiled once and gives each sequence its own `GrammarConstraint`.
"""

from pocketvlm.guided.grammars import Calls, Grammar, GrammarConstraint, Grammars

__all__ = ["Calls", "Grammar", "GrammarConstraint", "Grammars"]
