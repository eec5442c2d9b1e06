"""Small helpers below every stage: errors, atomic files, manifests, seeds, progress, resumable state, command line."""
