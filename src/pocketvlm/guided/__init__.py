"""Guided output: a grammar says after each token which ones may come next. Needs llguidance (extra `serve`).

`Grammars` makes them for one tokenizer out of JSON schemas, regular expressions, choices and tools; `Grammar` is
compiled once and gives each sequence its own `GrammarConstraint`.
"""

from pocketvlm.guided.grammars import Calls, Grammar, GrammarConstraint, Grammars

__all__ = ["Calls", "Grammar", "GrammarConstraint", "Grammars"]
