"""The content of instance files, with the defaults and the files that they name."""
