# Builds, weighs, tries and packs the app on Windows.   NEVER RUN YET: written without Windows.
#   powershell -File packaging\windows\build.ps1
#   WINDOWS_CERTIFICATE   thumbprint of a code signing certificate in the user's store
# Needs Python 3.11 or newer and Inno Setup 6; what lacks its secret is left out, and says so.
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $true
Set-Location (Join-Path $PSScriptRoot '..\..')

function Check($what) { if ($LASTEXITCODE -ne 0) { throw "$what failed: exit status $LASTEXITCODE" } }

$python = 'build\venv\Scripts\python.exe'
if (-not (Test-Path $python)) { python -m venv build\venv; Check 'python -m venv' }
& $python -m pip install -qq --require-hashes --only-binary :all: -r requirements\build.txt
Check 'pip'
& $python -m pip install -qq --no-build-isolation --require-hashes -r requirements\package.txt
Check 'pip'
& $python -m PyInstaller --noconfirm --clean --log-level WARN `
    --distpath build\dist --workpath build\pyinstaller pyinstaller.spec
Check 'pyinstaller'
& $python packaging\size_budget.py build\dist\llama-wrangler
Check 'the size budget'

$version = & $python -c 'import tray_app; print(tray_app.__version__)'
$sign = $null
if ($env:WINDOWS_CERTIFICATE) {
    $tool = 'signtool sign /sha1 ' + $env:WINDOWS_CERTIFICATE + ' /fd sha256 /tr http://timestamp.digicert.com /td sha256'
    cmd /c "$tool build\dist\llama-wrangler\llama-wrangler.exe"
    Check 'signtool'
    $sign = $tool + ' $f'
} else {
    Write-Warning 'NOT DONE: signing (WINDOWS_CERTIFICATE is not set): SmartScreen will warn'
}

$trial = @('--self-test')
if ($env:LLAMA_WRANGLER_TEST_MODEL) { $trial += @('--model', $env:LLAMA_WRANGLER_TEST_MODEL) }
& build\dist\llama-wrangler\llama-wrangler.exe @trial
Check 'the self-test'

New-Item -ItemType Directory -Force dist | Out-Null
& $python packaging\sbom.py build\pyinstaller\pyinstaller |
    Set-Content -Encoding utf8 "dist\llama-wrangler-$version.sbom.json"
Compress-Archive -Force build\dist\llama-wrangler "dist\llama-wrangler-$version-windows-x86_64.zip"
$inno = Get-Command iscc -ErrorAction SilentlyContinue
if ($inno) {
    $words = @("/DVersion=$version")
    if ($sign) { $words += @('/DSignTool=sign', "/Ssign=$sign") }
    & $inno.Source @words packaging\windows\llama-wrangler.iss
    Check 'Inno Setup'
} else {
    Write-Warning 'NOT DONE: the installer (Inno Setup, iscc, is not on the PATH)'
}
Get-ChildItem dist -File -Exclude SHA256SUMS | ForEach-Object {
    '{0}  {1}' -f (Get-FileHash $_ -Algorithm SHA256).Hash.ToLower(), $_.Name
} | Set-Content -Encoding ascii dist\SHA256SUMS
