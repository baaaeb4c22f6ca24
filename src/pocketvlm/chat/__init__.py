"""A chat is a conversation with media, commands, settings and files; no module here knows a terminal."""
