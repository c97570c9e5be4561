"""Where instance data comes from: the interface that drivers have, and the file driver."""
