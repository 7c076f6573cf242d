//! conntrack
pub(crate) async fn forget(_address: std::net::Ipv4Addr) {}
