//! The calls on the `authorizer` variable; what they build is in [`crate::authorizer`].

use super::Row;
use crate::authorizer::call;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "path", overloads: &[("authorizer_path", ".authorizer string -> path")], run: call },
    Row { name: "group", overloads: &[("authorizer_group", ".authorizer string -> group")], run: call },
    Row { name: "serviceAccount", overloads: &[("authorizer_serviceaccount", ".authorizer string string -> authorizer")], run: call },
    Row { name: "resource", overloads: &[("groupcheck_resource", ".group string -> resource")], run: call },
    Row { name: "subresource", overloads: &[("resourcecheck_subresource", ".resource string -> resource")], run: call },
    Row { name: "namespace", overloads: &[("resourcecheck_namespace", ".resource string -> resource")], run: call },
    Row { name: "name", overloads: &[("resourcecheck_name", ".resource string -> resource")], run: call },
    Row { name: "fieldSelector", overloads: &[("authorizer_fieldselector", ".resource string -> resource")], run: call },
    Row { name: "labelSelector", overloads: &[("authorizer_labelselector", ".resource string -> resource")], run: call },
    Row { name: "check", overloads: &[("pathcheck_check", ".path string -> decision"), ("resourcecheck_check", ".resource string -> decision")], run: call },
    Row { name: "errored", overloads: &[("decision_errored", ".decision -> bool")], run: call },
    Row { name: "error", overloads: &[("decision_error", ".decision -> string")], run: call },
    Row { name: "allowed", overloads: &[("decision_allowed", ".decision -> bool")], run: call },
    Row { name: "reason", overloads: &[("decision_reason", ".decision -> string")], run: call },
];
