; Inno Setup 6: an installer for one user, without administrator rights.   NEVER RUN YET: written
; without Windows. Built by packaging/windows/build.ps1.
#ifndef Version
  #error give the version: iscc /DVersion=0.1.0
#endif

[Setup]
AppId={{7F0C5C1E-5E0B-4B2E-9D6B-0C7B6C6A9A51}
AppName=Llama Wrangler
AppVersion={#Version}
AppPublisher=Llama Wrangler contributors
DefaultDirName={autopf}\Llama Wrangler
DefaultGroupName=Llama Wrangler
DisableProgramGroupPage=yes
PrivilegesRequired=lowest
ArchitecturesAllowed=x64compatible
ArchitecturesInstallIn64BitMode=x64compatible
MinVersion=10.0.17763
OutputDir=..\..\dist
OutputBaseFilename=llama-wrangler-{#Version}-windows-x86_64-setup
SetupIconFile=..\..\assets\llama-wrangler.ico
UninstallDisplayIcon={app}\llama-wrangler.exe
Compression=lzma2
SolidCompression=yes
CloseApplications=yes
RestartApplications=no
WizardStyle=modern
#ifdef SignTool
SignTool={#SignTool}
#endif

[Files]
Source: "..\..\build\dist\llama-wrangler\*"; DestDir: "{app}"; Flags: recursesubdirs ignoreversion

[Icons]
Name: "{autoprograms}\Llama Wrangler"; Filename: "{app}\llama-wrangler.exe"

; No start at login: that is a switch in the app itself, and off.
[Run]
Filename: "{app}\llama-wrangler.exe"; Description: "Start Llama Wrangler"; Flags: nowait postinstall skipifsilent

[Code]
function PrepareToInstall(var NeedsRestart: Boolean): String;
var
  Status: Integer;
begin
  { What runs reads its code out of the files that are about to be replaced. }
  if FileExists(ExpandConstant('{app}\llama-wrangler.exe')) then
    Exec(ExpandConstant('{app}\llama-wrangler.exe'), 'stop', '', SW_HIDE, ewWaitUntilTerminated, Status);
  Result := '';
end;

procedure CurUninstallStepChanged(Step: TUninstallStep);
var
  Words: String;
  Status: Integer;
begin
  if Step <> usUninstall then
    exit;
  Words := 'uninstall --yes';
  { A silent removal keeps the models: nobody was asked. }
  if not UninstallSilent then
    if MsgBox('Remove the models in your .llama-wrangler folder too?' + #13#10 +
        'Models in other folders are never touched.', mbConfirmation, MB_YESNO or MB_DEFBUTTON2) = IDYES then
      Words := Words + ' --models';
  Exec(ExpandConstant('{app}\llama-wrangler.exe'), Words, '', SW_HIDE, ewWaitUntilTerminated, Status);
end;
