"""At home in other people's frameworks: each in a package of its own, and none needed by the rest."""
