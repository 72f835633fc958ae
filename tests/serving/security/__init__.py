"""Who may call, over what, and how much of the server one caller may take."""
