"""One file a question: what is asked, of whom, how it is analysed."""
