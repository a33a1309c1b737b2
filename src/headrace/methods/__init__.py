"""Published methods and baselines, one file each, in a folder per role."""
