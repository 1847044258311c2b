"""How fast extraction is: its parts alone (``make bench``), and the whole beside other tools (``compare_extract``)."""
