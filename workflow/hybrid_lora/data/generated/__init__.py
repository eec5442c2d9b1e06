"""Small problems that a model of a million parameters can learn in a minute: sums, stories with options, programs."""
