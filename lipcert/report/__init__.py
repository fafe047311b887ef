"""One HTML file about one run or several, which opens from the disk without a network."""
