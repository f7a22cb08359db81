"""Products: what a page says, who a product is, its facts, images and the addresses they come from."""
