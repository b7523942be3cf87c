"""How values are stored: codecs, principal components, and what they keep of the original."""
