"""Writers make the files of a checkpoint in one format each; see `pocketvlm.checkpoint.formats` for reading."""
