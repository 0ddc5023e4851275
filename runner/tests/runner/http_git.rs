//! A repository over HTTP that asks for a token to push: git's own `http-backend` behind a few lines of CGI.

use axum::{
    Router,
    body::to_bytes,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{path::PathBuf, process::Stdio};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

/// Serves the repositories below `root`; whoever pushes must bring this `Authorization`. Returns the url.
pub async fn serve(root: PathBuf, authorization: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(move |request: Request| answer(root.clone(), authorization, request));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn answer(root: PathBuf, authorization: &'static str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let pushes = parts.uri.path().ends_with("git-receive-pack") || query.contains("git-receive-pack");
    if pushes && header("authorization") != authorization {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")]).into_response();
    }
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_USER", "somebody")
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = backend.stdin.take().unwrap();
    stdin.write_all(&to_bytes(body, 10_000_000).await.unwrap()).await.unwrap();
    drop(stdin);
    let mut said = Vec::new();
    backend.stdout.take().unwrap().read_to_end(&mut said).await.unwrap();
    backend.wait().await.unwrap();
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let mut response = said[end + 4..].to_vec().into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    for line in std::str::from_utf8(&said[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            *response.status_mut() = StatusCode::from_bytes(&value.as_bytes()[..3]).unwrap();
        } else {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
    }
    response
}
