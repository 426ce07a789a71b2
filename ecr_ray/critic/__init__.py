"""The critic: an encoder with a head for every aspect, which foresees what judges and seekers will say of a reply."""
