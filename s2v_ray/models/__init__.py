"""Networks, and the files that they are stored in: teachers with their cards, sync networks, and bundles."""
