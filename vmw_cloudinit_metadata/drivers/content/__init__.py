"""What instance files say, with the defaults and the files that they name."""
