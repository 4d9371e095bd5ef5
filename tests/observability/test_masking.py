"""Secrets never leave, whatever they look like."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from k2_dagster.observability.masking import MASK, mask, masked

passwords = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1).map(lambda text: f"#{text}#")


@given(password=passwords)
def test_a_password_in_an_address_is_hidden(password: str) -> None:
    uri = f"postgresql+psycopg2://ann:{password}@db.example:5432/k2?sslmode=require"

    assert mask(f"failed: {uri} (retry)") == (
        f"failed: postgresql+psycopg2://ann:{MASK}@db.example:5432/k2?sslmode=require (retry)"
    )
    assert password not in masked(SecretStr(uri))


def test_what_holds_no_secret_stays_as_it_is() -> None:
    for text in (
        "http://127.0.0.1:8081",
        "127.0.0.1:9092,127.0.0.1:9093",
        "s3://bucket/prefix",
        "file:///a/b@c",
        "",
        "postgresql://ann:@/k2?host=/x",
    ):
        assert mask(text) == text


def test_values_of_settings() -> None:
    assert masked(SecretStr("swordfish")) == MASK
    assert masked(None) == ""
    assert masked(3) == "3"
    assert masked("http://h/?api_token=abc&x=1") == f"http://h/?api_token={MASK}&x=1"
