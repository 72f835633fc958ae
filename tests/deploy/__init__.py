"""What lies in deploy/ keeps its promises."""
