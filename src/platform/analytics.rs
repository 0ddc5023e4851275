//! Data points for Analytics Engine. The positions are the predecessor's, so that its board keeps working
//! (`domain.md` 11). Writing one never fails anything: without the binding, or over its limits, it is dropped.

use crate::town::effect::DataPoint;
use worker::{AnalyticsEngineDataPointBuilder, Env};

/// The longest error or reason in a point, in bytes: the blobs of a point may have 16 KB together.
const MAX_TEXT: usize = 2_048;

/// Writes a point of a town.
pub fn write(env: &Env, town_id: &str, point: &DataPoint) {
    let Ok(dataset) = env.analytics_engine("GASTOWN_AE") else { return };
    // 1 event, 2 userId, 3 delivery, 4 route, 5 error, 6 townId, 7 rigId, 8 agentId, 9 beadId, 10 label, 11 convoyId,
    // 12 role, 13 beadType, 14 reason.
    let convoy_id = if point.bead_type == "convoy" { point.bead_id.as_str() } else { "" };
    let blobs = [
        point.event,
        "",
        "internal",
        "",
        cut(&point.error),
        town_id,
        &point.rig_id,
        &point.agent_id,
        &point.bead_id,
        cut(&point.label),
        convoy_id,
        &point.role,
        &point.bead_type,
        cut(&point.reason),
    ];
    // 1 durationMs, 2 value, 3–10 the event's own, 11 statusCode.
    let doubles = [point.duration_ms, point.value].into_iter().chain(point.own).chain([point.status_code]);
    let built = AnalyticsEngineDataPointBuilder::new().indexes([point.event]).blobs(blobs).doubles(doubles).build();
    // A dropped point is not worth a log line each: the limits of the platform drop them in bursts.
    let _ = dataset.write_data_point(&built);
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
