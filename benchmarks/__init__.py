"""Every figure that the documents quote, re-measurable by one command each."""
