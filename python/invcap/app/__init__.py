"""The web page: pictures to words, words to pictures, scores and inversions as they go."""
