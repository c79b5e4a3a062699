"""LiteLLM and LangChain against a service at argv[1]; prints one line for each call that worked.

Run by `test_other_clients.py` with a Python that has litellm, langchain-openai and langchain-community.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(url: str, picture: Path) -> None:
    import litellm
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
    from langchain_openai import OpenAIEmbeddings

    base = {"api_base": f"{url}/v1", "api_key": "none"}
    linked = litellm.image_generation(prompt="a red apple", model="openai/dall-e-3", size="1024x1024", **base)
    assert linked.data[0].url
    inline = litellm.image_generation(prompt="a red apple", model="openai/gpt-image-1", **base)
    assert inline.data[0].b64_json
    with picture.open("rb") as file:
        edited = litellm.image_edit(model="openai/gpt-image-1", image=file, prompt="a green apple", **base)
    assert edited.data[0].b64_json
    assert len(litellm.embedding(model="openai/text-embedding-3-small", input=["red", "blue"], **base).data) == 2
    for provider, name in (("cohere", "rerank-v3.5"), ("jina_ai", "jina-reranker-m0")):
        rerank = {"query": "red", "documents": ["blue", "red"], "api_base": f"{url}/v1/rerank", "api_key": "none"}
        ranked = litellm.rerank(model=f"{provider}/{name}", **rerank)
        assert [one["index"] for one in ranked.results] == [1, 0]
    embeddings = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False)
    assert len(embeddings.embed_documents(["red", "blue"])) == 2
    assert DallEAPIWrapper(base_url=f"{url}/v1", api_key="none").run("a red apple").endswith(".png")
    print("all calls worked")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
