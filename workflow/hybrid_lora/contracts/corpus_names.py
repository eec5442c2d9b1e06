"""Published data sets that corpora are made from, and their sizes; light, for estimates before anything is fetched."""

HUB_ROWS = {  # (repository, configuration): rows of its one split
    ("open-r1/Mixture-of-Thoughts", "all"): 349_317,
    ("open-r1/Mixture-of-Thoughts", "math"): 93_733,
    ("open-r1/Mixture-of-Thoughts", "code"): 83_070,
    ("open-r1/Mixture-of-Thoughts", "science"): 172_514,
}
