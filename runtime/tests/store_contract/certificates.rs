//! A database whose server proves its name by a certificate that no machine knows.

use rhizon_runtime::store::EventStore as _;
use rhizon_runtime::store::postgres::PostgresStore;
use rhizon_tests::postgres;

#[tokio::test]
async fn a_server_with_a_certificate_of_ones_own_is_checked_by_it() {
    let (server, certificate) = start().await;
    let (_other_server, other) = start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (own, other) = (file("own.crt", &certificate), file("other.crt", &other));
    let (plain, url) = (server.url(), server.url().replace("?sslmode=disable", ""));
    let open = |url: &str, ca| PostgresStore::open(url, "rhizon_a_0", "A", ca).unwrap();
    open(&url, Some(own.as_path())).claim().await.unwrap();
    let refused = open(&url, Some(other.as_path())).claim().await.unwrap_err().to_string();
    assert!(refused.contains("certificate"), "{refused}");
    let unknown = open(&format!("{url}?sslmode=verify-full"), None).claim().await.unwrap_err().to_string();
    assert!(unknown.contains("certificate"), "{unknown}");
    // What the string says goes: its owner asked for no check.
    open(&plain, Some(other.as_path())).claim().await.unwrap();
}

async fn start() -> (postgres::Server, String) {
    tokio::task::spawn_blocking(postgres::start_with_certificate).await.unwrap()
}
