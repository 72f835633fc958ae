"""A page that shows what the networks see: a client of the server, with its bundles at hand."""
