//! Amazon Resource Names, as far as messages need them.

/// The stream, in whichever account. The partition follows the region's name
/// (AWS General Reference, "Amazon Resource Names").
pub(super) fn of_stream(region: &str, stream: &str) -> String {
    let partition = match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    format!("arn:{partition}:firehose:{region}:*:deliverystream/{stream}")
}

/// Whose policy decides about `principal`: for the session of a role, the role.
pub(super) fn policy_source(principal: &str) -> String {
    let role = principal.split_once(":sts::").and_then(|(partition, rest)| {
        let (account, session) = rest.split_once(":assumed-role/")?;
        let (role, _) = session.split_once('/')?;
        Some(format!("{partition}:iam::{account}:role/{role}"))
    });
    role.unwrap_or_else(|| principal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_judged_by_its_role() {
        assert_eq!(
            policy_source("arn:aws:sts::123456789012:assumed-role/device/iot-agent"),
            "arn:aws:iam::123456789012:role/device"
        );
        let user = "arn:aws:iam::123456789012:user/pi";
        assert_eq!(policy_source(user), user);
    }

    #[test]
    fn the_partition_follows_the_region() {
        let china = "arn:aws-cn:firehose:cn-north-1:*:deliverystream/s";
        assert_eq!(of_stream("cn-north-1", "s"), china);
        assert_eq!(of_stream("eu-west-1", "s"), "arn:aws:firehose:eu-west-1:*:deliverystream/s");
    }
}
