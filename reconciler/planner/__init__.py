"""The rooms of ``plan``: facts, goals, what is made, what is removed, what is only said. Pure, all of them."""
