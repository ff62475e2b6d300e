//! A web service under l0: axum with tower-http's `TraceLayer`, some thousand real requests, and the questions one asks
//! afterwards. The service knows nothing of l0: it uses `tracing`, and the correlation id of a request is a field.
//!
//! `cargo run --release --example web`

use std::{error::Error, panic, thread, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Path},
    http::{Request, Response, StatusCode},
    routing::get,
};
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};
use tracing::{Span, error, field::Empty, info, info_span, instrument};

const CLIENTS: u64 = 8;
const REQUESTS: u64 = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("l0-web-{}", std::process::id()));
    // This example's panics are recorded; their text on stderr would only be in the way.
    panic::set_hook(Box::new(|_| {}));
    let l0 = l0::builder().dir(&dir).service("shop").default_filter("info").panic_hook(true).install()?;

    serve_and_ask()?;

    println!("-- the slowest requests, and one that took several steps as a tree");
    let slowest = l0.traces().slowest().limit(50).fetch()?.items;
    slowest.iter().take(3).for_each(|trace| println!("{trace}"));
    if let Some(slow) = slowest.iter().find(|trace| trace.spans > 2)
        && let Some(trace) = l0.trace(&slow.correlation_id)?
    {
        println!("\n{trace}");
    }
    println!("-- the latest failed requests, of {}", l0.traces().failed().limit(5).fetch()?.total);
    for trace in l0.traces().failed().limit(5).fetch()?.items {
        println!("{trace}");
    }
    println!("\n-- what the handler that panicked left");
    let panicked = l0.events().event_type("panic").limit(1).fetch()?.items.remove(0);
    println!("{} in {}", panicked.message, panicked.correlation_id.as_deref().unwrap_or("no request"));

    println!("\n-- the lines of one correlation id");
    for line in l0.logs().correlation_id("client-3-120").oldest_first().fetch()?.items {
        println!("{:>8} {} {}", line.severity.as_str(), line.message, line.payload);
    }
    println!("\n-- the whole service, with percentiles per route");
    println!("{}", l0.summary(Duration::from_secs(3600))?);

    let stats = l0.stats();
    println!("{} events and spans recorded, {} stored, {} shed", stats.recorded, stats.stored, stats.shed);
    l0.shutdown(Duration::from_secs(5))?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// Runs the server until the clients have asked all they want.
fn serve_and_ask() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let server = runtime.spawn(async move { axum::serve(listener, app()).await });
    let statuses: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || ask(client, &address.to_string()))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect()
    });
    server.abort();
    let failed = statuses.iter().filter(|status| **status >= 500).count();
    println!("-- {} requests over HTTP, {failed} of them failed\n", statuses.len());
    Ok(())
}

fn app() -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(|request: &Request<Body>| {
            let route = request.extensions().get::<MatchedPath>().map_or("(no route)", MatchedPath::as_str);
            let id = request.headers().get("x-correlation-id").and_then(|id| id.to_str().ok());
            info_span!("request", otel.name = %format_args!("{} {route}", request.method()), correlation_id = id,
                path = request.uri().path(), http.status = Empty)
        })
        .on_response(|response: &Response<Body>, _: Duration, span: &Span| {
            span.record("http.status", response.status().as_u16());
        });
    Router::new()
        .route("/orders/{id}", get(order))
        .route("/search", get(search))
        .route("/reports/{id}", get(report))
        .layer(CatchPanicLayer::new())
        .layer(trace)
}

async fn order(Path(id): Path<u64>) -> Result<String, StatusCode> {
    let row = query("SELECT * FROM orders WHERE id = ?", Duration::from_micros(200)).await;
    if id.is_multiple_of(40) {
        error!(order = id, token = "tok_4242", "the payment of this order is lost");
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    info!(order = id, "order shown");
    Ok(row)
}

async fn search() -> String {
    query("SELECT * FROM products", Duration::from_millis(2)).await
}

async fn report(Path(id): Path<u64>) -> String {
    assert!(id != 13, "report {id} divides by zero");
    for month in ["january", "february", "march"] {
        let _ = query(month, Duration::from_millis(5 + id % 20)).await;
    }
    render(id).await
}

#[instrument(fields(rows = Empty))]
async fn query(sql: &str, takes: Duration) -> String {
    tokio::time::sleep(takes).await;
    Span::current().record("rows", sql.len());
    sql.to_owned()
}

#[instrument]
async fn render(id: u64) -> String {
    tokio::time::sleep(Duration::from_millis(3)).await;
    info!(report = id, "report rendered");
    format!("report {id}")
}

/// One client's requests, each with a correlation id of its own.
fn ask(client: u64, address: &str) -> Vec<u16> {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let ask = |n: u64| {
        let path = match n % 25 {
            0 => format!("reports/{}", n / 25),
            1..5 => "search".to_owned(),
            _ => format!("orders/{n}"),
        };
        let request = agent.get(format!("http://{address}/{path}"));
        let response = request.header("x-correlation-id", format!("client-{client}-{n}")).call();
        response.map_or(0, |response| response.status().as_u16())
    };
    (0..REQUESTS).map(ask).collect()
}
