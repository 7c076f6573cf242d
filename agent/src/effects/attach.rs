//! Attach: give the container its network namespace and its published ports.

use std::sync::Arc;

use longshore_engine::{
    ContainerKey, ContainerSpec, Event, Failure, NetworkMode, PortBinding, PortMapping, Protocol,
};
use longshore_network as network;

use super::{ThisHost, failure, target};
use crate::driver::Order;

pub(super) async fn run(host: Arc<ThisHost>, order: Order, key: ContainerKey) -> Event {
    match attach(&host, &order, &key).await {
        Ok(bindings) => Event::NetworkAttached(key, bindings),
        Err(failure) => Event::NetworkFailed(key, failure),
    }
}

async fn attach(
    host: &ThisHost,
    order: &Order,
    key: &ContainerKey,
) -> Result<Vec<PortBinding>, Failure> {
    let id = &target(order, key)?.runtime_id;
    let container = &order.task.containers[key.index];
    let refuse = |e| failure("ContainerNetworkingError", &e);
    match order.task.network {
        NetworkMode::Host => Ok(open_on_the_host(container)),
        NetworkMode::None => {
            host.network.attach_none(id).await.map_err(refuse)?;
            Ok(Vec::new())
        }
        NetworkMode::Bridge => {
            let ports: Vec<network::PortRequest> = container.ports.iter().map(request).collect();
            let attachment = host
                .network
                .attach_bridge(id, &ports)
                .await
                .map_err(refuse)?;
            Ok(attachment.bindings.iter().map(binding).collect())
        }
    }
}

/// In mode host nothing is translated: a container's port is the host's.
fn open_on_the_host(container: &ContainerSpec) -> Vec<PortBinding> {
    let same = |port: &PortMapping| PortBinding {
        container_port: port.container_port,
        host_port: port.container_port,
        protocol: port.protocol,
    };
    container.ports.iter().map(same).collect()
}

fn request(port: &PortMapping) -> network::PortRequest {
    network::PortRequest {
        container_port: port.container_port,
        host_port: port.host_port,
        protocol: match port.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
        },
    }
}

fn binding(port: &network::PortBinding) -> PortBinding {
    PortBinding {
        container_port: port.container_port,
        host_port: port.host_port,
        protocol: match port.protocol {
            network::Protocol::Tcp => Protocol::Tcp,
            network::Protocol::Udp => Protocol::Udp,
        },
    }
}
