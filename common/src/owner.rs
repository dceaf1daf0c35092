//! The ownership record on every super object: written with the object, read back in one place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::keys;
use crate::name::{Name, NameError, Namespace, TenantId, Uid};
use crate::side::Tenant;

/// Whose a super object is: which tenant's, and which object of that tenant asked for it.
///
/// *Shapes*: `namespace` is `None` for cluster-scoped tenant objects (a Namespace).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The UID of the VirtualCluster.
    pub tenant: Uid,
    /// The tenant object's namespace.
    pub namespace: Option<Namespace<Tenant>>,
    /// The tenant object's name.
    pub name: Name<Tenant>,
    /// The tenant object's UID.
    pub uid: Uid,
}

/// Why a record could not be read. Such an object is nobody's: never touched, never reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// There is no record at all.
    #[error("the object has no record {}", keys::OWNER)]
    Absent,
    /// The record is not of a form we write.
    #[error("the record {} cannot be read", keys::OWNER)]
    Malformed,
    /// The record names something that cannot be.
    #[error("the record {} names something that cannot be", keys::OWNER)]
    Name(#[source] NameError),
    /// Label and record speak of different tenants.
    #[error("the label {} does not belong to the record {}", keys::TENANT, keys::OWNER)]
    Label,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<'a> {
    v: u8,
    tenant: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
    uid: &'a str,
}

impl Owner {
    /// The JSON that stands in the annotation [`keys::OWNER`].
    pub fn annotation(&self) -> String {
        let (tenant, uid) = (self.tenant.to_string(), self.uid.to_string());
        let record = Record {
            v: 1,
            tenant: &tenant,
            namespace: self.namespace.as_ref().map(Namespace::as_str),
            name: self.name.as_str(),
            uid: &uid,
        };
        serde_json::to_string(&record).expect("a record of strings serializes")
    }

    /// Reads the record off a super object, given its tenant label and its owner annotation.
    pub fn read(label: Option<&str>, annotation: Option<&str>) -> Result<Self, OwnerError> {
        let text = annotation.ok_or(OwnerError::Absent)?;
        let record: Record<'_> = serde_json::from_str(text).map_err(|_| OwnerError::Malformed)?;
        if record.v != 1 {
            return Err(OwnerError::Malformed);
        }
        let tenant = Uid::parse(record.tenant).map_err(OwnerError::Name)?;
        if label != Some(TenantId::new(tenant, "").as_str()) {
            return Err(OwnerError::Label);
        }
        Ok(Self {
            tenant,
            namespace: record.namespace.map(Namespace::parse).transpose().map_err(OwnerError::Name)?,
            name: Name::parse(record.name).map_err(OwnerError::Name)?,
            uid: Uid::parse(record.uid).map_err(OwnerError::Name)?,
        })
    }

    /// Puts the record into the labels and annotations of an object to be written.
    pub fn write(&self, tenant: &TenantId, labels: &mut BTreeMap<String, String>, annotations: &mut BTreeMap<String, String>) {
        labels.insert(keys::TENANT.to_owned(), tenant.as_str().to_owned());
        annotations.insert(keys::OWNER.to_owned(), self.annotation());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> (TenantId, Owner) {
        let uid = Uid::parse("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd").unwrap();
        let tenant = TenantId::new(uid, "acme");
        let owner = Owner {
            tenant: uid,
            namespace: Some(Namespace::parse("default").unwrap()),
            name: Name::parse("web-0").unwrap(),
            uid: Uid::parse("00000000-0000-4000-8000-000000000001").unwrap(),
        };
        (tenant, owner)
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let (tenant, owner) = owner();
        let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
        owner.write(&tenant, &mut labels, &mut annotations);
        let label = labels.get(keys::TENANT).map(String::as_str);
        let annotation = annotations.get(keys::OWNER).map(String::as_str);
        assert_eq!(Owner::read(label, annotation), Ok(owner));
    }

    #[test]
    fn a_label_of_another_tenant_is_no_owner() {
        let (_, owner) = owner();
        let other = TenantId::new(Uid::parse("00000000-0000-4000-8000-000000000009").unwrap(), "x");
        assert_eq!(Owner::read(Some(other.as_str()), Some(&owner.annotation())), Err(OwnerError::Label));
        assert_eq!(Owner::read(None, Some(&owner.annotation())), Err(OwnerError::Label));
        assert_eq!(Owner::read(Some(other.as_str()), None), Err(OwnerError::Absent));
        assert_eq!(Owner::read(Some(other.as_str()), Some("{}")), Err(OwnerError::Malformed));
    }
}
