"""A conversation, without the keyboard: typed lines, media, commands, settings, files. No terminal here."""
