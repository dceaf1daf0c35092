//! What a program's `/metrics` says.

/// The sum of a metric over all its labels that contain `labels`; 0 if there is none.
pub fn sum(text: &str, name: &str, labels: &str) -> f64 {
    let lines = text.lines().filter(|line| line.contains(labels));
    let values = lines.filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    values.sum()
}
