"""A shop that ships parcels and captures their money."""
