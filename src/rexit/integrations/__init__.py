"""`rexit.Reranker` as a part of other libraries: `langchain`, `llama_index`, `haystack`. Each needs the extra of its name."""
