"""Each option is defined here, once; Python, command line, YAML, chat, server and docs take it from its definition.

`sampling`, `media`, `request` and `load` hold the definitions; those of the server alone are in `server/settings.py`.
"""
