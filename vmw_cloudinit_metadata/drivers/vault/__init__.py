"""Values of secrets, which data names by reference: from OpenBao, or from files of a directory."""
