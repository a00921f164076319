//! A second fault, kept up while another comes and goes: always that of another server's link, so that neither undoes the other.

use std::time::Duration;

use super::{
    fault::{Fault, Server},
    proxy::Proxy,
    site::Site,
};

/// What is kept up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// As the fault of that name.
    RedisSilent,
    DatabaseSlow,
}

impl Beside {
    /// What can be kept up beside this fault; nothing where the fault measures what others do meanwhile, or takes long.
    pub fn of(fault: Fault) -> Option<Self> {
        let is_alone = matches!(
            fault,
            Fault::AccountLocked
                | Fault::RowsRefused
                | Fault::SomeRowsRefused
                | Fault::ConstantKey
                | Fault::DatabaseTakesNoWrites
                | Fault::BrokerAway
        );
        match fault.server() {
            _ if is_alone => None,
            Server::Redis => Some(Self::DatabaseSlow),
            Server::Workers | Server::Broker | Server::Database => Some(Self::RedisSilent),
            Server::Ingress | Server::Feed => None,
        }
    }

    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RedisSilent => "redis_silent",
            Self::DatabaseSlow => "database_slow",
        }
    }

    fn proxy(self, site: &Site) -> &Proxy {
        match self {
            Self::RedisSilent => &site.redis_proxy,
            Self::DatabaseSlow => site.node_proxy(),
        }
    }

    /// Begins. Returns what [`Beside::end`] has to know.
    pub fn begin(self, site: &Site) -> u64 {
        let proxy = self.proxy(site);
        match self {
            Self::RedisSilent => proxy.silence(true),
            Self::DatabaseSlow => proxy.delay(Duration::from_millis(50)),
        }
        proxy.hits()
    }

    /// Ends. Returns how often it was felt.
    pub fn end(self, site: &Site, begun: u64) -> u64 {
        let proxy = self.proxy(site);
        proxy.heal();
        proxy.hits().saturating_sub(begun)
    }
}
